"""Files that hold many pictures: reading byte ranges and members of archives."""
