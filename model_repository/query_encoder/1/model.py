import os, site  # the server's own Python runs this: first the packages beside care_accel
any(map(site.addsitedir, filter(None, os.environ.get("CARE_ACCEL_SITE", "").split(os.pathsep))))
from care_accel.serving.encoder_model import QueryEncoderModel as TritonPythonModel
