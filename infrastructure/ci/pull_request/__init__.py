"""Pull request CI (slim CI): build changed models in a CI schema, compare them with production."""
