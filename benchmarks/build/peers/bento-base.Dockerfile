# The slim base with uv, which BentoML would otherwise fetch from the public index in every image.
FROM bench-slim
COPY --from=bench-wheels uv /usr/bin/uv
