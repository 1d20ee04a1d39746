"""CyC-PDAM (CVPR 2020) made executable: nuclei of histopathology, learned from fluorescence labels alone."""

__version__ = "0.1.0"
