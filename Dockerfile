FROM debian:bookworm-slim
# DEVICE=cpu or cuda; the CUDA build of torch carries its own libraries.
ARG DEVICE=cpu
ARG TORCH_INDEX=""
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv curl \
    && rm -rf /var/lib/apt/lists/* && useradd --create-home puma
USER puma
WORKDIR /home/puma/app
COPY --chown=puma . .
RUN python3 -m venv .venv && .venv/bin/pip install --no-cache-dir --upgrade pip \
    && if [ "$DEVICE" = cpu ] && [ -n "$TORCH_INDEX" ]; then extra="--index-url $TORCH_INDEX"; fi \
    && .venv/bin/pip install --no-cache-dir $extra torch==2.13.0 \
    && .venv/bin/pip install --no-cache-dir -e .
ENV PUMA_WORKSPACE=/home/puma/workspace PATH=/home/puma/app/.venv/bin:$PATH
VOLUME /home/puma/workspace
EXPOSE 8501
HEALTHCHECK --start-period=15m CMD curl --fail http://localhost:8501/_stcore/health || exit 1
CMD ["sh", "-c", "puma demo && exec streamlit run dashboard/app.py --server.address 0.0.0.0"]
