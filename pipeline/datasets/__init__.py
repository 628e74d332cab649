"""Labelled uint8 images from many sources, divided, measured and fingerprinted."""

from pipeline.datasets.loading import load
from pipeline.datasets.splits import Dataset, Images, SealedTest, Statistics
from pipeline.datasets.unlabelled import iterate_images

__all__ = ["Dataset", "Images", "SealedTest", "Statistics", "iterate_images", "load"]
