-- What wrk sends in the row `post`: 4 KiB up.
wrk.method = "POST"
wrk.body = string.rep("x", 4096)
