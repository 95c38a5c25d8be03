"""The feature store: the encoded images of a data set, computed once and read many times."""

from captioner.features.build import StoreReport, build_store
from captioner.features.space import StoreSpace, store_bytes, store_space
from captioner.features.store import FeatureStore

__all__ = ["FeatureStore", "StoreReport", "StoreSpace", "build_store", "store_bytes", "store_space"]
