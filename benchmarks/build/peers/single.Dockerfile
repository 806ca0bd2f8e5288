# The image of most tutorials: one stage, packages first, everything else in one COPY.
FROM bench-slim
WORKDIR /app
COPY requirements.txt .
RUN --mount=type=bind,from=bench-wheels,target=/wheels \
    pip install --no-cache-dir --break-system-packages --no-index --find-links /wheels -r requirements.txt
COPY model.joblib predictor.py service.py ./
EXPOSE 8080
CMD ["python3", "-m", "uvicorn", "service:app", "--host", "0.0.0.0", "--port", "8080"]
