// Package web holds the live page: a few embedded files, without a build step or a framework. The page draws what the API
// answers; package apiserver serves both.
package web

import (
	"embed"
	"io/fs"
)

//go:embed files
var embedded embed.FS

// Files holds the files of the page, with index.html at the root.
var Files = must(fs.Sub(embedded, "files"))

func must(f fs.FS, err error) fs.FS {
	if err != nil {
		panic(err) // cannot happen: the directory is embedded
	}
	return f
}
