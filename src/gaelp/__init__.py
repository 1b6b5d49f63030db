"""gaelp takes an ad-buying agent from simulation to live spend, one proven step at a time."""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

__version__ = "0.1.0"

CAMPAIGN_ID = "gaelp/Campaign-v0"


def _register() -> None:
    from gymnasium.envs.registration import register

    register(
        id=CAMPAIGN_ID,
        entry_point="gaelp.market.gym:CampaignEnv",
        vector_entry_point="gaelp.market.gym:CampaignVectorEnv",
    )


class _Registering(Loader):
    """Loads gymnasium as it would be loaded, then tells it of our environment."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _register()


class _WhenGymnasiumLoads(MetaPathFinder):
    """Finds gymnasium once.

    `gymnasium.make("gaelp/Campaign-v0")` must work after `import gaelp`, in either order; but gymnasium takes longer to
    import than `gaelp halt` may take to start, so it is not imported here.
    """

    def find_spec(self, name: str, path: object, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "gymnasium":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name)  # fallback-allowed: gymnasium is required; this only waits for it
        if spec is not None and spec.loader is not None:
            spec.loader = _Registering(spec.loader)
        return spec


if "gymnasium" in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _WhenGymnasiumLoads())
