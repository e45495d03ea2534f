"""Ask a running server, with the library's client over gRPC and with OpenAI's over HTTP.

care-accel serve          # in one terminal
care-accel gateway        # in another
python examples/query.py 血压高怎么办

Needs the extra `server`, and the package `openai` for the second part.
"""

import argparse

from openai import OpenAI

from care_accel import Retriever


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("query")
    parser.add_argument("--server", default="localhost:8001", help="the inference server's gRPC address")
    parser.add_argument("--gateway", default="http://127.0.0.1:8080")
    options = parser.parse_args()

    with Retriever.from_server(options.server) as retriever:
        hits, timings = retriever.search(options.query, k=3, return_timings=True)
    for hit in hits:
        print(f"{hit.score:.3f}  {hit.id}  {hit.document}")
    print(f"microseconds in the server: {timings}")

    client = OpenAI(base_url=f"{options.gateway}/v1", api_key="none")  # or the gateway's token
    # The name carries the role: a document embedded as a query would be ranked wrongly.
    query = client.embeddings.create(model="care-mini-query", input=options.query)
    document = client.embeddings.create(model="care-mini-document", input="高血压患者应低盐饮食，规律服药。")
    pair = zip(query.data[0].embedding, document.data[0].embedding, strict=True)
    score = sum(a * b for a, b in pair)
    print(f"score of a document that is not in the index: {score:.3f}")


if __name__ == "__main__":
    main()
