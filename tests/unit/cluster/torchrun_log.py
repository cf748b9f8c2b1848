"""What the pinned torch writes behind the log of ranks that it started."""

_SUMMARY = """\
W1126 20:48:09.022000 20344 /x/site-packages/torch/distributed/elastic/multiprocessing/api.py:1028]\
 Sending process 20348 closing signal SIGTERM
E1126 20:48:09.026000 20344 torch/distributed/elastic/multiprocessing/api.py:1002]\
 failed (exitcode: {code}) local_rank: 0 (pid: 20347) of binary: /x/bin/python
Traceback (most recent call last):
  File "<frozen runpy>", line 198, in _run_module_as_main
  File "/x/site-packages/torch/distributed/launcher/api.py", line 194, in __call__
    return launch_agent(
           ^^^^^^^^^^^^^
  File "/x/site-packages/torch/distributed/launcher/api.py", line 383, in launch_agent
    raise ChildFailedError(
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:\x20
============================================================
scripts/train_stage.py FAILED
------------------------------------------------------------
Failures:
[1]:
  time      : 2026-11-26_20:48:09
  host      : localhost
  rank      : 1 (local_rank: 1)
  exitcode  : -15 (pid: 20348)  (SIGTERM)
  error_file: <N/A>
  traceback : Signal 15 (SIGTERM) received by PID 20348
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-26_20:48:09
  host      : localhost
  rank      : 0 (local_rank: 0)
  exitcode  : {code} (pid: 20347)\x20
  error_file: <N/A>
  traceback : To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html
============================================================
"""


def torchrun_summary(code: int) -> str:
    """Return torchrun's words where the rank that failed first ended with a code."""
    return _SUMMARY.format(code=code)
