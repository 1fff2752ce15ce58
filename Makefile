PY := .venv/bin/python
generate:
	PATH=$(CURDIR)/.venv/bin:$$PATH $(PY) -m grpc_tools.protoc -Iprotos --python_out=generated/python --mypy_out=quiet:generated/python protos/dragoman/v1/*.proto
	PATH=$(CURDIR)/.venv/bin:$$PATH $(PY) -m grpc_tools.protoc -Iprotos --grpc_python_out=generated/python --mypy_grpc_out=quiet:generated/python protos/dragoman/v1/*_service.proto
