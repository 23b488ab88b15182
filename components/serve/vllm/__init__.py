"""The engine ``vllm``: a vLLM server reads the pages; queue, versions, limits and the HTTP side stay this service's."""
