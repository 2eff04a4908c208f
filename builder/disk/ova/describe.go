package ova

import (
	"bytes"
	"encoding/xml"
	"fmt"
)

// Kinds of hardware (CIM_ResourceAllocationSettingData, DSP0004; OVF 1.1 table 5).
const (
	rasdProcessor = 3
	rasdMemory    = 4
	rasdSCSI      = 6
	rasdEthernet  = 10
	rasdDisk      = 17
)

// describe is the description of a machine whose disk of capacity bytes is in a file of size bytes.
func describe(m Machine, file string, size, capacity int64) []byte {
	var out bytes.Buffer
	w := func(format string, args ...any) { fmt.Fprintf(&out, format+"\n", args...) }
	text := func(s string) string {
		var b bytes.Buffer
		_ = xml.EscapeText(&b, []byte(s)) // a Buffer takes all
		return b.String()
	}
	w(`<?xml version="1.0" encoding="UTF-8"?>`)
	w(`<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"` +
		` xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"` +
		` xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData">`)
	w(`  <References>`)
	w(`    <File ovf:id="file1" ovf:href="%s" ovf:size="%d"/>`, text(file), size)
	w(`  </References>`)
	w(`  <DiskSection>`)
	w(`    <Info>The disks of the machine</Info>`)
	w(`    <Disk ovf:diskId="disk1" ovf:fileRef="file1" ovf:capacity="%d" ovf:format="%s"/>`, capacity,
		"http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized")
	w(`  </DiskSection>`)
	if len(m.NICs) > 0 {
		w(`  <NetworkSection>`)
		w(`    <Info>The networks that the machine is plugged into</Info>`)
		for _, n := range m.NICs {
			w(`    <Network ovf:name="%s">`, text(n))
			w(`      <Description>%s</Description>`, text(n))
			w(`    </Network>`)
		}
		w(`  </NetworkSection>`)
	}
	w(`  <VirtualSystem ovf:id="%s">`, text(m.Name))
	w(`    <Info>A machine</Info>`)
	w(`    <Name>%s</Name>`, text(m.Name))
	w(`    <OperatingSystemSection ovf:id="101">`) // CIM_OperatingSystem: Linux of 64 bits
	w(`      <Info>The system that is installed</Info>`)
	w(`    </OperatingSystemSection>`)
	w(`    <VirtualHardwareSection>`)
	w(`      <Info>The hardware it needs</Info>`)
	w(`      <System>`)
	w(`        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>`)
	w(`        <vssd:InstanceID>0</vssd:InstanceID>`)
	w(`        <vssd:VirtualSystemIdentifier>%s</vssd:VirtualSystemIdentifier>`, text(m.Name))
	w(`        <vssd:VirtualSystemType>vmx-10</vssd:VirtualSystemType>`)
	w(`      </System>`)
	instance := 0
	// The elements of an item stand in the order of the alphabet, as the schema has them.
	item := func(kind int, fields ...string) {
		instance++
		w(`      <Item>`)
		placed := false
		for i := 0; i < len(fields); i += 2 {
			if fields[i] > "InstanceID" && !placed {
				w(`        <rasd:InstanceID>%d</rasd:InstanceID>`, instance)
				placed = true
			}
			if fields[i] > "ResourceType" && kind != 0 {
				w(`        <rasd:ResourceType>%d</rasd:ResourceType>`, kind)
				kind = 0
			}
			w(`        <rasd:%s>%s</rasd:%s>`, fields[i], text(fields[i+1]), fields[i])
		}
		if !placed {
			w(`        <rasd:InstanceID>%d</rasd:InstanceID>`, instance)
		}
		if kind != 0 {
			w(`        <rasd:ResourceType>%d</rasd:ResourceType>`, kind)
		}
		w(`      </Item>`)
	}
	megabytes := (m.Memory + 1<<20 - 1) >> 20
	item(rasdProcessor, "ElementName", fmt.Sprintf("%d processors", m.CPUs), "VirtualQuantity", fmt.Sprint(m.CPUs))
	item(rasdMemory, "AllocationUnits", "byte * 2^20", "ElementName", fmt.Sprintf("%d MiB of memory", megabytes),
		"VirtualQuantity", fmt.Sprint(megabytes))
	item(rasdSCSI, "Address", "0", "ElementName", "SCSI controller", "ResourceSubType", "VirtualSCSI")
	controller := instance
	item(rasdDisk, "AddressOnParent", "0", "ElementName", "disk1", "HostResource", "ovf:/disk/disk1", "Parent",
		fmt.Sprint(controller))
	for i, n := range m.NICs {
		item(rasdEthernet, "AddressOnParent", fmt.Sprint(i), "AutomaticAllocation", "true", "Connection", n, "ElementName", n,
			"ResourceSubType", "VmxNet3")
	}
	w(`    </VirtualHardwareSection>`)
	w(`  </VirtualSystem>`)
	w(`</Envelope>`)
	return out.Bytes()
}
