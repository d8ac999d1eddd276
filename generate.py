"""Generate a set of pictures from captions: `python generate.py data=emoji generator.guidance_scale=2`."""

import sys

from lgrep.cli import run
from lgrep.config.compose import group_choices
from lgrep.generation.run import generate, resolve

USAGE = f"""usage: python generate.py [data=NAME | captions=FILE] [generator=NAME] [key=value ...]

  python generate.py                                         4 pictures of every emoji caption, with the package's own model
  python generate.py limit=150 generator.images_per_caption=10
  python generate.py captions=prompts.txt generator=stable_diffusion_v1_5_stablerep
  python generate.py generator=diffusers generator.pipeline=FOLDER data=cc12m data.metadata=... data.root=...
  python generate.py -m generator.guidance_scale=1,2,4,6,8,10    one set for each

Sets lie in out/NAME/IDENTITY and train with data=generated. The same command goes on after any interruption and
makes only what is missing, several at once (also on other machines that share the folder) help each other, and more
pictures per caption can be added later. debug=true shows the traceback of an error.

generator: {", ".join(group_choices("generator"))}
data:      {", ".join(group_choices("data"))}
"""

if __name__ == "__main__":
    sys.exit(run("generate", USAGE, generate, check=resolve))
