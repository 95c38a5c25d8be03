"""The feature store: the encoded pictures of a data set, computed once and read many times."""

from captioner.features.build import StoreReport, build_store, store_bytes
from captioner.features.store import FeatureStore

__all__ = ["FeatureStore", "StoreReport", "build_store", "store_bytes"]
