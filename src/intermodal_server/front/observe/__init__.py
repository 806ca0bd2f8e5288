"""What is measured and told beside the answers: metrics, prediction sketches, the ring, access log and traces.

Takes finished requests from the application, hands on pages of the metrics port, log lines and spans. Nothing here can
fail a request, and nothing here sends anything to anybody unless a variable says so.
"""
