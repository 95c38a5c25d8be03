"""The feature store: what an encoder makes of a data set's pictures, computed once and read many times."""

from captioner.features.build import Built, build_store, store_bytes
from captioner.features.store import FeatureStore

__all__ = ["Built", "FeatureStore", "build_store", "store_bytes"]
