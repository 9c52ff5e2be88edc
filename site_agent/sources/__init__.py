"""Where artifacts come from when no site holds them: hubs, web servers, object stores, disks.

    reference.py      what a reference such as `hf://org/name@rev` spells       pure
    allowed.py        which hosts, addresses and roots a site may read
    source.py         what every source can do, and how its failures are told
    guarded_http.py   HTTP that connects only to what was checked
    download.py       files of a listing, at once, resumed and verified
    pull.py           a reference becomes an artifact of the store

Each source has a file of its own, imported when its first reference comes: the libraries behind
them (`huggingface_hub`, `fsspec`) are an extra and take up to a second to import.
"""

from typing import Final

ENDPOINTS: Final = ("HF_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
"""Variables of the environment that name an endpoint, which is then allowed as a host."""
