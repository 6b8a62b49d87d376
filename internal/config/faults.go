package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/uvswitch/uvswitch/internal/model"
)

// mostFaults is how many errors Faults returns at most.
const mostFaults = 20

// Faults returns at most 20 errors of the source's file, in the order in which they are found. It returns none if the file is right. Start returns the
// first one. Faults leaves out what is wrong to find the next error. So one error may cause another: a port has no network if its network is wrong.
func (s Source) Faults() []error {
	text, err := os.ReadFile(s.Path)
	if err != nil {
		return []error{err}
	}
	return s.faults(text)
}

func (s Source) faults(text []byte) []error {
	f, faults := readable(bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")))
	if f == nil {
		return faults
	}
	// The file's own settings first, then each object beside those that are right.
	check := func(f *File) error {
		if err := f.check(); err != nil {
			return err
		}
		c, _, err := s.config(f)
		if err == nil {
			err = model.Check(c)
		}
		return err
	}
	right := File{Uplink: f.Uplink, Host: f.Host, NAT: f.NAT}
	if err := check(&right); err != nil {
		faults = append(faults, err)
		right = File{} // to find the errors of the objects
	}
	if len(faults) == 0 && check(f) == nil {
		return nil
	}
	faults = beside(faults, &right, check, f.Policies, &right.Policies)
	faults = beside(faults, &right, check, f.Networks, &right.Networks)
	faults = beside(faults, &right, check, f.Ports, &right.Ports)
	faults = beside(faults, &right, check, f.Publish, &right.Publish)
	faults = beside(faults, &right, check, f.Routes, &right.Routes)
	return faults[:min(len(faults), mostFaults)]
}

// beside adds the objects of a list, in their order, to those of a file that is right so far. It appends the errors of those that are wrong. Objects are
// checked in blocks, since a check takes as long as the file: a block that is wrong is checked again in halves.
func beside[T any](faults []error, f *File, check func(*File) error, list []T, to *[]T) []error {
	var block func(from, n int)
	block = func(from, n int) {
		if n == 0 || len(faults) >= mostFaults {
			return
		}
		right := len(*to)
		*to = append(*to, list[from:from+n]...)
		err := check(f)
		if err == nil {
			return
		}
		*to = (*to)[:right]
		if n == 1 { // the error counts in the list of those that are right; the file has others before it
			faults = append(faults, errors.New(strings.ReplaceAll(err.Error(), fmt.Sprintf("[%d]", right), fmt.Sprintf("[%d]", from))))
			return
		}
		block(from, n/2)
		block(from+n/2, n-n/2)
	}
	block(0, len(list))
	return faults
}

// readable reads a file without what cannot be read, and returns why that cannot be read. The file is nil if nothing can be read.
func readable(text []byte) (f *File, faults []error) {
	defer func() {
		if r := recover(); r != nil { // see Parse
			f, faults = nil, append(faults, fmt.Errorf("the file is not well-formed YAML (%v)", r))
		}
	}()
	if err := checkNesting(text); err != nil {
		return nil, []error{err}
	}
	doc, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, []error{errors.New(inWords(err))}
	}
	switch {
	case len(doc.Docs) > 1:
		return nil, []error{errTwoDocuments}
	case len(doc.Docs) == 0 || doc.Docs[0].Body == nil:
		return &File{}, nil
	}
	for len(faults) < mostFaults {
		f, at, err := decodeNode(doc.Docs[0].Body)
		if err == nil {
			return f, faults
		}
		faults = append(faults, err)
		if at == nil || !cut(doc.Docs[0].Body, at.Position) {
			break
		}
	}
	return nil, faults
}

// decodeNode decodes the file, and returns the place of the first error.
func decodeNode(body ast.Node) (*File, *token.Token, error) {
	var v nullFinder
	if ast.Walk(&v, body); v.err != nil {
		return nil, v.at, v.err
	}
	f := &File{}
	err := yaml.NewDecoder(bytes.NewReader(nil), yaml.Strict()).DecodeFromNode(body, f)
	if err == nil {
		return f, nil, nil
	}
	var placed yaml.Error
	if errors.As(err, &placed) {
		return nil, placed.GetToken(), errors.New(withHint(inWords(err)))
	}
	return nil, nil, err
}

// cut removes the innermost key or entry that has a place from a tree. It reports whether there is one.
func cut(n ast.Node, at *token.Position) bool {
	switch n := n.(type) {
	case *ast.MappingNode:
		for i, v := range n.Values {
			if has(v, at) {
				if has(v.Key, at) || !cut(v.Value, at) {
					n.Values = slices.Delete(n.Values, i, i+1)
				}
				return true
			}
		}
	case *ast.SequenceNode:
		for i, v := range n.Values {
			if has(v, at) {
				if !cut(v, at) {
					n.Values = slices.Delete(n.Values, i, i+1)
				}
				return true
			}
		}
	}
	return false
}

// has reports whether a part of a tree is at a place.
func has(n ast.Node, at *token.Position) bool {
	found := placeFinder{at: at}
	ast.Walk(&found, n)
	return found.found
}

type placeFinder struct {
	at    *token.Position
	found bool
}

func (f *placeFinder) Visit(n ast.Node) ast.Visitor {
	if t := n.GetToken(); t != nil && t.Position != nil && t.Position.Line == f.at.Line && t.Position.Column == f.at.Column {
		f.found = true
	}
	return f
}
