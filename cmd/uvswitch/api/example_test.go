package api_test

import (
	"context"
	"fmt"
	"net/url"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// This program adds a port in a namespace, publishes its port 80, and prints the frames that are dropped at the port.
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
