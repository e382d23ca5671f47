"""From bytes to pixels: the only code that decodes and resizes pictures."""

from pupila.images.decoder import DEFAULT_LIMITS as DEFAULT_LIMITS
from pupila.images.decoder import FRAMINGS as FRAMINGS
from pupila.images.decoder import DecodeLock as DecodeLock
from pupila.images.decoder import Header as Header
from pupila.images.decoder import ImageLimits as ImageLimits
from pupila.images.decoder import PilImage as PilImage
from pupila.images.decoder import Pixels as Pixels
from pupila.images.decoder import as_png as as_png
from pupila.images.decoder import decode as decode
from pupila.images.decoder import decode_image as decode_image
from pupila.images.decoder import encode_png as encode_png
from pupila.images.decoder import header as header
from pupila.images.decoder import no_lock as no_lock
from pupila.images.decoder import plain_png as plain_png
from pupila.images.decoder import read as read
from pupila.images.decoder import resize as resize
from pupila.images.decoder import stack as stack
from pupila.images.formats import FORMATS as FORMATS
from pupila.images.formats import what_it_is as what_it_is
