"""How many of torch's threads an operation is shared among."""

import torch


def use_threads(count: int) -> None:
    """Let operations of the calling thread use so many, itself included.

    torch sets it for threads to come as well: whoever has begun others sets its own number again.
    """
    if torch.get_num_threads() != count:  # a thread's first look would undo what was set before it
        torch.set_num_threads(count)
