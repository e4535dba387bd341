"""The OpenAPI document: request schemas made from the tables that read bodies, answers written down and tested."""
