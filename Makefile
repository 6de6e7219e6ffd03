# One line for each thing a contributor does. The environment lives in .venv; nothing else is touched but Debian packages.
.PHONY: proto
PY := .venv/bin/python

proto:
	PATH=$(CURDIR)/.venv/bin:$$PATH $(PY) -m grpc_tools.protoc -Iproto --python_out=proto --grpc_python_out=proto --mypy_out=quiet:proto --mypy_grpc_out=quiet:proto proto/understudy/v1/*.proto
