package api_test

import (
	"context"
	"fmt"
	"net/url"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// A program that plugs a namespace in, publishes its port 80, and follows what is dropped there.
func Example() {
	ctx := context.Background()
	c := api.NewClient(api.DefaultSocket)
	port, err := c.AddPort(ctx, api.PortAdd{Name: "web", Netns: "web"})
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := c.Publish(ctx, api.PublishAdd{Spec: "8080:80", Port: port.Name}); err != nil {
		fmt.Println(err)
		return
	}
	for v, err := range c.Monitor(ctx, url.Values{"port": {"web"}, "verdict": {"dropped"}}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(v.Packet, v.Reason)
	}
}
