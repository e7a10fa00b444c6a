"""A codec, and the way there and back."""

from wukong.core.codec import Codec
from wukong.core.storage import joined

KEY = b"k" * 32
PLACE = b"job/v/7"
CODEC = Codec(KEY)


def there_and_back(value, codec=CODEC, place=PLACE):
    return codec.decode(bytes(joined(codec.encode(value, place))), place)
