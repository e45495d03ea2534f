"""What a wheel must do once it is installed: load the embedded model, encode, search. Needs no pytest."""

import care_accel
from care_accel import DualEncoder, Retriever

TEXTS = ["高血压患者应低盐饮食", "骨折后应固定"]

model = DualEncoder.from_pretrained("care-mini")
vector = model.encode_query("骨折")
assert vector.shape == (model.width,), vector.shape
assert abs(float(vector @ vector) - 1) < 1e-4, "not normalised"
(hit,) = Retriever.from_documents(model, TEXTS).search("骨折", k=1)
assert hit.document == TEXTS[1], hit
print(care_accel.__file__, care_accel.__version__)
