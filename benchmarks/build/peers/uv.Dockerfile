# The multi-stage image with uv in the place of pip: the fastest way to fill an environment in a Dockerfile.
FROM bench-slim AS packages
COPY requirements.txt .
RUN --mount=type=bind,from=bench-wheels,target=/wheels \
    /wheels/uv venv --python /usr/bin/python3 /opt/venv && \
    /wheels/uv pip install --python /opt/venv/bin/python --no-cache --no-index --find-links /wheels --compile-bytecode \
        -r requirements.txt

FROM bench-slim
RUN useradd --system --uid 10001 app
COPY --from=packages /opt/venv /opt/venv
WORKDIR /app
COPY model.joblib .
COPY predictor.py service.py ./
USER app
ENV PATH=/opt/venv/bin:/usr/bin:/bin
EXPOSE 8080
CMD ["uvicorn", "service:app", "--host", "0.0.0.0", "--port", "8080"]
