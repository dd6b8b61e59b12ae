"""What folders, columns and data sets call their splits."""

import re

SPLITS = ("train", "test", "validation")
# train2017, val_images, test1, trainset: as COCO, Kaggle and others call theirs.
NAME = re.compile(
    r"(?P<train>train(ing)?)|(?P<test>test(ing)?)|(?P<validation>val(id(ation)?)?)"
    r"|((?P<train_>train)|(?P<test_>test)|(?P<validation_>val))[-_ ]?(\d{1,4}|images?|imgs?|set|data)",
    re.IGNORECASE,
)


def split_of(name: str) -> str | None:
    """ "train", "test" or "validation" where `name` is a name of one of them in any case, else None."""
    found = NAME.fullmatch(name)
    return None if found is None else next(kind for kind, text in found.groupdict().items() if text).removesuffix("_")
