# A good multi-stage image: packages in a stage of their own, model and code in layers of theirs, not run by root.
# The wheels are already with the daemon, so nothing is downloaded while this is timed.
FROM bench-slim AS packages
RUN python3 -m venv /opt/venv
COPY requirements.txt .
RUN --mount=type=bind,from=bench-wheels,target=/wheels \
    /opt/venv/bin/pip install --no-cache-dir --no-index --find-links /wheels -r requirements.txt

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
