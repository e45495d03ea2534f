"""The scan inside the server, as far as it needs no server."""

import json

import numpy as np

from care_accel.serving import scan_model


class Found:
    """Stands for a retriever's documents, and counts how often one is asked for."""

    def __init__(self):
        self.asked = []

    def document(self, position):
        self.asked.append(position)
        return {"title": f"第{position}号"}


def test_documents_are_json_and_null_where_there_is_none():
    found = scan_model.Documents(Found()).get(np.array([[2, 0, -1], [0, -1, -1]]))
    assert [[json.loads(raw) for raw in row] for row in found] == [
        [{"title": "第2号"}, {"title": "第0号"}, None],
        [{"title": "第0号"}, None, None],
    ]
    assert "第2号".encode() in found[0, 0]


def test_a_document_is_written_once(monkeypatch):
    monkeypatch.setattr(scan_model, "_KEPT_DOCUMENTS", 3)  # null is one of them
    retriever = Found()
    kept = scan_model.Documents(retriever)
    for _ in range(2):
        kept.get(np.array([[0, 1, 2]]))
    assert retriever.asked == [0, 1, 2, 2]  # for the last one there was no room
