"""What folders, columns and data sets call their splits."""

SPLITS = ("train", "test", "validation")
NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
}


def split_of(name: str) -> str | None:
    """ "train", "test" or "validation" where `name` is a name of one of them in any case, else None."""
    return NAMES.get(name.lower())
