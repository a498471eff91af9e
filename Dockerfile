# Serves and trains runs: docker run -p 127.0.0.1:8501:8501 -v "$PWD/runs:/runs" IMAGE dashboard /runs/demo --host 0.0.0.0
FROM python:3.12-slim

# The CPU build of torch; a CUDA build with --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

WORKDIR /app
COPY constraints.txt ./
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" "$(grep '^torch==' constraints.txt)"
COPY pyproject.toml README.md LICENSE ./
COPY sae_core sae_core
COPY dashboard dashboard
COPY data data
# Without the pinned versions of other packages' CUDA parts; torch is there already.
RUN pip install --no-cache-dir -c constraints.txt .

RUN useradd --create-home person && mkdir /runs && chown person /runs
USER person
WORKDIR /runs
EXPOSE 8501
ENTRYPOINT ["sae-ensemble"]
CMD ["--help"]
