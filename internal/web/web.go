// Package web is the live page: three files, embedded, without a build step or a framework. It draws what the control API's
// GET requests say; package control serves both.
package web

import (
	"embed"
	"io/fs"
)

//go:embed files
var embedded embed.FS

// Files are the page's, index.html at the root.
var Files = must(fs.Sub(embedded, "files"))

func must(f fs.FS, err error) fs.FS {
	if err != nil {
		panic(err) // the folder above is embedded
	}
	return f
}
