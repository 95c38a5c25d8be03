"""The feature store: what an encoder makes of a data set's pictures, computed once and read many times."""

from captioner.features.build import StoreReport, build_store, store_bytes
from captioner.features.store import FeatureStore

__all__ = ["FeatureStore", "StoreReport", "build_store", "store_bytes"]
