FROM debian:bookworm-slim
# DEVICE=cpu takes torch's small CPU wheel from TORCH_INDEX, if that names an index of such wheels;
# without one, and for DEVICE=cuda, the ordinary wheel, which runs on both.
ARG DEVICE=cpu
ARG TORCH_INDEX=""
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv curl \
    && rm -rf /var/lib/apt/lists/* && useradd --create-home puma
USER puma
# A named volume takes its owner from the folder that stands here.
RUN mkdir -p /home/puma/app /home/puma/workspace
WORKDIR /home/puma/app
COPY --chown=puma . .
RUN case "$DEVICE" in cpu|cuda) ;; *) echo "DEVICE is cpu or cuda, not $DEVICE" >&2; exit 1;; esac \
    && if [ "$DEVICE" = cpu ] && [ -n "$TORCH_INDEX" ]; then index="--index-url $TORCH_INDEX"; fi \
    && python3 -m venv .venv && .venv/bin/pip install --no-cache-dir --upgrade pip \
    && .venv/bin/pip install --no-cache-dir $index "$(grep '^torch' requirements.txt)" \
    && .venv/bin/pip install --no-cache-dir -e .
ENV PUMA_WORKSPACE=/home/puma/workspace PATH=/home/puma/app/.venv/bin:$PATH
VOLUME /home/puma/workspace
EXPOSE 8501
HEALTHCHECK --start-period=15m CMD curl --fail http://localhost:8501/_stcore/health || exit 1
CMD ["sh", "-c", "puma demo && exec streamlit run dashboard/app.py --server.address 0.0.0.0"]
