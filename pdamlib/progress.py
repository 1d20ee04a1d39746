"""The progress bar of every long step: what is done, how fast, and the time that remains; silent without a terminal."""

from functools import partial

from tqdm import tqdm

progress = partial(tqdm, disable=None, dynamic_ncols=True)
