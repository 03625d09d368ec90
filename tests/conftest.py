"""What holds for every test."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_cache_dir(tmp_path_factory):
    """One cache folder for the whole run, child processes too: tests neither read nor write the user's.

    The zoo's exports are made once in it.
    """
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("RACELINE_CACHE_DIR", str(folder))
        yield folder
