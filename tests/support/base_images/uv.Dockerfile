# Stand-in of uv's own image, which is its program and nothing else.
FROM scratch
COPY uv /uv
ENTRYPOINT ["/uv"]
