"""The shop and its people, as the pages' tests know them."""

from tests.web.conftest import fresh_caches, rival, shop, sign_in, source, tell, trouble

__all__ = ["fresh_caches", "rival", "shop", "sign_in", "source", "tell", "trouble"]
