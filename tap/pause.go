//go:build !amd64

package tap

func pause() {}
