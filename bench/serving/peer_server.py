"""A hand-written server for the same search: FastAPI, sentence-transformers and faiss on uvicorn, each as shipped.

``python -m bench.serving.peer_server FOLDER PORT``; the folder holds vectors.npy and documents.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import faiss
import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from bench.inputs.mini import SentenceTransformers


class Query(BaseModel):
    """A request's body."""

    text: str
    k: int = 10


def application(folder: Path) -> FastAPI:
    """Return the application that searches a folder's documents."""
    documents = json.loads((folder / "documents.json").read_text(encoding="utf-8"))
    vectors = np.load(folder / "vectors.npy")
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    encode = SentenceTransformers()
    encode(["高血压"])
    app = FastAPI()

    @app.post("/search")
    def search(query: Query):
        scores, ids = index.search(encode([query.text]), query.k)
        return [
            {"id": i, "score": score, "document": documents[i]}
            for i, score in zip(ids[0].tolist(), scores[0].tolist(), strict=True)
        ]

    @app.get("/ready")
    def ready():
        return True

    return app


if __name__ == "__main__":
    uvicorn.run(application(Path(sys.argv[1])), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
