module inference-gateway/e2e

go 1.21
