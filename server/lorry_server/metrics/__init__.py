"""What Prometheus sees.

`requests` is told by the services, `engine` asks the engine at each scrape, `endpoint` answers over HTTP.
"""
