# noqa: A005 - mirrors kalshibook.http
