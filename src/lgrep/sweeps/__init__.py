"""Many runs from one command line (`-m`): which jobs, running them, and the table and plot over them."""
