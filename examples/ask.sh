#!/bin/sh
# Ask a server what is on some pictures, with curl; a bad picture gets its reason, and the good ones their answers.
# sh examples/ask.sh http://127.0.0.1:3000 horse.jpg dog.jpg
set -eu
url=$1
shift
for picture in "$@"; do
    quoted=$(printf '%s.' "$picture" | sed 's/[\\"]/\\&/g') # or curl would take what follows a ; or , for its own
    set -- "$@" -F "file=@\"${quoted%.}\""
    shift
done
curl --silent --show-error "$@" "$url/predict?top=3&on_error=partial"
