"""Finding neighbours among captions or pictures."""

from lgrep.mining.mine import mine
from lgrep.mining.settings import Miner

__all__ = ["Miner", "mine"]
