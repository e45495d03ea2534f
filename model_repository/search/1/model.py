import os, site  # runs in the server's own Python: adds the packages of the environment
any(map(site.addsitedir, filter(None, os.environ.get("CARE_ACCEL_SITE", "").split(os.pathsep))))
from care_accel.serving.search_model import SearchModel as TritonPythonModel
