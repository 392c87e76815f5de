"""Who may do what: roles and grants, tokens, certificates, OIDC, quotas and the audit log. Knows nothing of grpc."""
