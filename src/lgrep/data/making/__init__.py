"""Making the metadata files of published sets from what their authors publish; `configs/make/*.yaml` names the makers."""

from lgrep.data.making.conceptual import make_conceptual
from lgrep.data.making.lgssl import make_lgssl_neighbours
from lgrep.data.making.yfcc import make_yfcc15m

__all__ = ["make_conceptual", "make_lgssl_neighbours", "make_yfcc15m"]
