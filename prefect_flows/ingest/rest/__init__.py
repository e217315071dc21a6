"""A client for REST APIs, which sources share: retries, paging, tables."""
